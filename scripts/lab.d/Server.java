import java.io.FileInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.net.InetAddress;
import java.security.KeyStore;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLServerSocket;
import javax.net.ssl.SSLSocket;

/** A small HTTPS server on Java's own TLS (JSSE). Arguments: ADDRESS PORT KEYSTORE PROTOCOLS NAME. Every page says NAME. */
class Server {
    public static void main(String[] arguments) throws Exception {
        char[] password = "changeit".toCharArray();
        KeyStore store = KeyStore.getInstance("PKCS12");
        try (FileInputStream file = new FileInputStream(arguments[2])) {
            store.load(file, password);
        }
        KeyManagerFactory keys = KeyManagerFactory.getInstance("SunX509");
        keys.init(store, password);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(keys.getKeyManagers(), null, null);
        SSLServerSocket listener = (SSLServerSocket) context.getServerSocketFactory()
            .createServerSocket(Integer.parseInt(arguments[1]), 128, InetAddress.getByName(arguments[0]));
        listener.setEnabledProtocols(arguments[3].split(","));
        String page = arguments[4] + " java\n";
        byte[] answer = ("HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nContent-Length: " + page.length()
            + "\r\nConnection: close\r\n\r\n" + page).getBytes();
        while (true) {
            SSLSocket socket = (SSLSocket) listener.accept();
            new Thread(() -> serve(socket, answer)).start();
        }
    }

    static void serve(SSLSocket socket, byte[] answer) {
        try (socket) {
            socket.setSoTimeout(30000);
            InputStream in = socket.getInputStream();
            // To the empty line.
            for (int last = 0, b; last != 0x0d0a0d0a; last = last << 8 | b) {
                if ((b = in.read()) < 0) {
                    return;
                }
            }
            socket.getOutputStream().write(answer);
        } catch (IOException e) {
            // A client that went away, or never spoke TLS.
            System.err.println(e);
        }
    }
}
